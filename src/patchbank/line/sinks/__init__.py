"""Where records go: a broker (MQTT), a web address, files, the service. `relay.py` brings them, each on its thread."""
