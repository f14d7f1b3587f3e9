"""Where videos come from, and how they are stored."""
