"""Measurements against today's ways and against the limits of the machine."""
