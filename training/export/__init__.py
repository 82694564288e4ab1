"""From trained networks to a policy folder, held to the reference."""
