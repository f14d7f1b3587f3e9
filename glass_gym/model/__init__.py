"""The networks: GMA and LMA, in the default and in the paper's architecture."""
