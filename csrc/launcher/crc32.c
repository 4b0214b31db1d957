/* binascii takes crc32 from libz, which is not linked for the sake of this one function. */

__attribute__((visibility("hidden"))) unsigned long crc32(unsigned long crc,
							  const unsigned char *data, unsigned size)
{
	crc = ~crc & 0xffffffffUL;
	while (size--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320UL : crc >> 1;
	}
	return ~crc & 0xffffffffUL;
}
