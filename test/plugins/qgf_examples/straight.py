"""A velocity field of one's own: it leads straight to the chunk that its file holds. A frozen model, or
a client of one behind a socket, has the same two functions."""


class Straight:
    def __init__(self, policy, component, tensors):
        """component: its entry in policy.yaml; tensors: file -> name -> float32 array."""
        self.goal = tensors[component.files[0]]["goal"]  # (D,)

    def __call__(self, obs, action, time):
        """obs (O,) encoded, action (N, D), time in [0, 1) -> velocity (N, D), float64."""
        return (self.goal - action) / (1 - time)
