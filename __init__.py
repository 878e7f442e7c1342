"""edgepress makes a trained model small, ships it, and proves what it costs on the device."""
