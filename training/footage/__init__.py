"""The survey of the footage, and the options that follow from it."""
