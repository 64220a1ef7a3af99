"""What is done with git around finished work: places to work in, checks, proofs, and the one branch that it lands on.

Every change that Loom makes by git is made here or by workers. The graph knows nothing of git: what a task is proven
with, and what waits to land, are rows that this layer hands to the graph's rules.
"""
