"""How the stack made for one upstream revision would fare on another; nothing of the user's is touched."""
