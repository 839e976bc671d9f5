"""The demonstrations: each lives through a story on the real stack and checks every claim that it makes."""
