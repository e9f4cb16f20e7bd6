"""Work on a feature: open it as a git work tree, turn the tree back into files and hooks, start a new one."""
