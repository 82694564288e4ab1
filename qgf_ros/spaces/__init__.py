"""What a robot senses and does, and how it is written down."""
