"""Pure modules, no losses: an architecture a file (lean, paper), and what they are made of."""
