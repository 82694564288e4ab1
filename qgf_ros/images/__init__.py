"""Pixels of cameras: what their messages hold, and what an encoder is shown of them.

Imported by what handles pixels alone: the encoder's process, training, replay; never by the control
node.
"""
