"""What goes wrong: the store, replicas, clocks, nights, files. And how all of it is put right."""

from collections.abc import Callable

from infra.simulation.nights import NightShift, go_back, publish_some
from infra.simulation.replica import Replica
from infra.simulation.world import World
from ray_jobs.shards.manifest import MANIFEST_NAME
from sql.errors import StoreError
from sql.retention import Trim, trim_events

HOUR_MS = 3_600_000
EVERY_S = 0.5


class Chaos:
    """An actor that breaks something every `EVERY_S` or so; `heal` ends it."""

    def __init__(self, world: World, nights: NightShift) -> None:
        self._world = world
        self._nights = nights
        self._rng = world.rng
        self._incarnations = 0
        self._breaks: list[tuple[Callable[[], None], int]] = [
            (self.shake_store, 5),
            (self.calm_store, 5),
            (self.crash_replica, 3),
            (self.stop_replica, 2),
            (self.move_clock, 2),
            (self.bert, 2),
            (self.night, 8),
            (nights.kill_and_resume, 3),
            (self.damage_file, 2),
            (self.roll_back, 3),
            (self.publish_some, 2),
            (self.retain, 2),
        ]

    def start(self) -> None:
        self.calm_store()
        self._world.scheduler.spawn("chaos", self._run, background=True)

    def start_replica(self) -> Replica:
        """A new one, or the place of one that is gone."""
        self._incarnations += 1
        replica = Replica(self._world, f"r{self._incarnations}")
        replica.start()
        return replica

    def _run(self) -> None:
        acts, weights = zip(*self._breaks, strict=True)
        while True:
            self._world.scheduler.sleep(self._rng.expovariate(1 / EVERY_S))
            (act,) = self._rng.choices(acts, weights)
            act()

    def shake_store(self) -> None:
        faults = self._world.faults
        faults.slow = self._rng.choice((0.0, 0.02, 0.1))
        faults.begin_refused = self._rng.choice((0.0, 0.05, 0.3))
        faults.commit_refused = self._rng.choice((0.0, 0.05, 0.2))
        faults.answer_lost = self._rng.choice((0.0, 0.05, 0.2))
        self._world.scheduler.note(f"store: {faults}")

    def calm_store(self) -> None:
        """In health, but never quick for all: so requests overtake each other."""
        self._world.faults.heal()
        self._world.faults.slow = 0.02

    def crash_replica(self) -> None:
        """kill -9, and another one in its place."""
        place = self._rng.randrange(len(self._world.replicas))
        gone = self._world.replicas[place]
        self._world.scheduler.note(f"kills {gone.name}")
        gone.crash()
        self._world.replicas[place] = self.start_replica()

    def stop_replica(self) -> None:
        """SIGSTOP of what a replica does by itself, or SIGCONT."""
        replica = self._rng.choice(self._world.replicas)
        replica.stopped = not replica.stopped
        self._world.scheduler.note(f"{replica.name} {'stops' if replica.stopped else 'goes on'}")

    def move_clock(self) -> None:
        replica = self._rng.choice(self._world.replicas)
        replica.skew_ms = self._rng.choice((-HOUR_MS, -2_000, 0, 2_000, HOUR_MS))
        self._world.scheduler.note(f"the clock of {replica.name} is {replica.skew_ms} ms off")

    def bert(self) -> None:
        self._world.bert_is_up = not self._world.bert_is_up
        self._world.scheduler.note(f"BERT is {'up' if self._world.bert_is_up else 'away'}")

    def night(self) -> None:
        """A night, and now and then a person who moves the pointer while it stages."""
        self._nights.spawn()
        if self._rng.random() < 0.4:
            act = self._rng.choice((go_back, publish_some))
            after_s = self._rng.uniform(0.0, 0.6)

            def interfere() -> None:
                self._world.scheduler.sleep(after_s)
                act(self._world)

            self._world.scheduler.spawn("on-call", interfere)

    def damage_file(self) -> None:
        """One bit of one file of a generation flips; whoever has it open keeps the right bytes."""
        world = self._world
        published = sorted(
            path.parent for path in world.root.glob(f"generations/*/{MANIFEST_NAME}")
        )
        if not published:
            return
        directory = self._rng.choice(published)
        files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
        path = self._rng.choice(files)
        right = path.read_bytes()
        if directory.name in world.damaged or not right:
            return
        wrong = bytearray(right)
        wrong[self._rng.randrange(len(wrong))] ^= 1 << self._rng.randrange(8)
        world.damaged[directory.name] = (path, right)
        path.unlink()  # a new file: what is mapped stays as it was
        path.write_bytes(wrong)
        world.scheduler.note(f"a bit of {directory.name}/{path.name} flips")

    def roll_back(self) -> None:
        self._world.scheduler.spawn("on-call", lambda: go_back(self._world))

    def publish_some(self) -> None:
        self._world.scheduler.spawn("on-call", lambda: publish_some(self._world))

    def retain(self) -> None:
        """The retention job, for what is older than a second or so."""
        world = self._world
        before_ms = world.now_ms() - self._rng.choice((300, 1_500))
        texts_only = self._rng.random() < 0.3

        def run() -> None:
            try:
                trim = Trim(sleep=world.scheduler.sleep)
                gone = trim_events(world.engine, before_ms, texts_only=texts_only, trim=trim)
                world.scheduler.note(f"retention took {gone} events")
            except StoreError as error:
                world.scheduler.note(f"retention: {type(error).__name__}")

        world.retained = True
        world.scheduler.spawn("retention", run)

    def heal(self) -> None:
        """Everything works again: files as they were made, clocks right, replicas running."""
        world = self._world
        world.faults.heal()
        world.bert_is_up = True
        for path, right in world.damaged.values():
            if path.parent.exists():
                path.write_bytes(right)
        world.damaged.clear()
        for replica in world.replicas:
            replica.stopped, replica.skew_ms = False, 0
