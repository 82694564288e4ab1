"""What each camera is worth, and what it saw."""
