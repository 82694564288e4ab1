"""A sampler backend of one's own: here the numpy sampler under another name."""

from qgf_ros.guidance.sampling import NumpySampler


class Averaged:
    name, title = "averaged", "the averaging sampler"

    def refuses(self, device, precision):
        return "backend averaged runs on the CPU" if device == "cuda" else ""

    def supports(self, policy):
        return "" if policy.description.velocity.kind == "mlp" else "averaged knows networks alone"

    def make(self, policy, device, threads, precision):
        sampler = NumpySampler(policy)
        sampler.backend = self.name
        return sampler
