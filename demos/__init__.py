"""The demonstrations: each runs a story on the real stack and checks every claim that it makes."""
