"""Observers: read back from the kernel what is in force; they share no code with the appliers."""
