"""What only the commands that measure speed and memory need: nothing here is a command."""
