"""Figures of ours beside the peers that are installed. For people: CI judges no time."""
