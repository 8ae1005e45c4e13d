"""What the appliance can do: each ability turns a request into events."""
