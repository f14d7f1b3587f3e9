"""Play worlds by hand: in a window, in a browser, in a notebook. The command is ``glass-play``."""
