"""The control core: from buffered messages to a command. No ROS in here."""
