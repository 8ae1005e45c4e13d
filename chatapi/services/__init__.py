"""The services of the appliance: each turns a request into events."""
