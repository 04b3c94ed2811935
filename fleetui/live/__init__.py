"""The live sockets: /ws/station for the bodies, /ws/live for the people who watch and help."""
