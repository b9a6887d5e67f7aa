"""What the course adds to nbgrader, so that the code of a whole class can be run unread.

`isolation` runs a submission's code where it sees no other file and no network. `preprocessors`
runs its cells so that a bad one costs no other its marks, and keeps hidden tests out of the
feedback. notebooks/solutions/nbgrader_config.py puts both into nbgrader's own commands.
"""
