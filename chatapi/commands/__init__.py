"""What the commands do: the appliance at work for somebody at a terminal."""
