"""What the parts of our nodes use of a node, without DDS: they are tested with it in process."""

from types import SimpleNamespace


class Publisher:
    """Keeps what is published."""

    def __init__(self, topic):
        self.topic, self.messages, self.waited = topic, [], []

    def publish(self, msg):
        self.messages.append(msg)

    def wait_for_all_acked(self, patience):
        self.waited.append(patience)
        return True


class Handle:
    """What waits in a subscription's queue, to be taken without the executor."""

    def __init__(self):
        self.waiting = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def take_message(self, kind, raw):
        return (self.waiting.pop(0), None) if self.waiting else None


class FakeNode:
    """`remaps`: topic -> topic, by their full names. `counts`: publishers per full name. `named`: the
    full names of the nodes that publish on a topic."""

    def __init__(self, name="qgf", remaps=None, counts=None, named=None):
        self.name, self.remaps, self.counts = name, remaps or {}, counts or {}
        self.named = named or {}
        self.publishers, self.subscriptions, self.destroyed = [], [], []

    def get_name(self):
        return self.name

    def get_namespace(self):
        return "/"

    def get_fully_qualified_name(self):
        return f"/{self.name}"

    def resolve_topic_name(self, topic):
        full = topic if topic.startswith("/") else f"/{topic.replace('~', self.name)}"
        return self.remaps.get(full, full)

    def create_publisher(self, kind, topic, profile, **options):
        self.publishers.append(Publisher(self.resolve_topic_name(topic)))
        return self.publishers[-1]

    def create_subscription(self, kind, topic, callback, profile, **options):
        made = SimpleNamespace(
            topic=self.resolve_topic_name(topic), callback=callback, handle=Handle(),
            msg_type=kind, raw=False, **options,
        )  # fmt: skip
        self.subscriptions.append(made)
        return made

    def count_publishers(self, topic):
        return self.counts.get(self.resolve_topic_name(topic), 0)

    def get_publishers_info_by_topic(self, topic):
        names = [n.rpartition("/") for n in self.named.get(self.resolve_topic_name(topic), ())]
        return [SimpleNamespace(node_namespace=space, node_name=name) for space, _, name in names]

    def get_subscriptions_info_by_topic(self, topic):
        return []

    def destroy_publisher(self, publisher):
        self.destroyed.append(publisher)

    def destroy_subscription(self, subscription):
        self.destroyed.append(subscription)

    def say(self, topic, msg):
        """A message on a topic, to all that subscribe to it."""
        found = [s for s in self.subscriptions if s.topic == topic and s not in self.destroyed]
        assert found, (
            f"nobody listens on {topic}; there are {[s.topic for s in self.subscriptions]}"
        )
        for subscription in found:
            subscription.callback(msg)
