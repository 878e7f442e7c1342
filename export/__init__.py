"""A model in hand, and the formats that it is written in."""
