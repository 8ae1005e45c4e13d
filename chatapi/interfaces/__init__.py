"""Ways to talk to the appliance: each translates events and decides nothing."""
