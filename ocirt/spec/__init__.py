"""config.json: reading, checking, describing. The document stays the dict that it is."""
