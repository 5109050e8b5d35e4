"""The line: a trigger comes, a picture is taken, a verdict leaves within the deadline. `patchbank run` starts it.

    camera -> inspect -> decide -> PLC -> journal -> sinks

What goes wrong on the way is answered, too: with ERROR, which is a reject. Nothing here knows the service or its
database: a line works without them, and hands over to them what it has journaled.
"""
