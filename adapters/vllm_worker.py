"""GRACE inside vLLM's workers: a decoder layer's MLP that looks its tokens up in a codebook.

``worker_extension_cls`` names :class:`GraceWorker`, and vLLM adds its methods to its workers, where
``collective_rpc`` reaches them::

    vllm.LLM(model, worker_extension_cls="memedit.adapters.vllm_worker.GraceWorker")

Where memedit is installed, vLLM's workers have them without that, too: :func:`register` is a
general plug-in, which vLLM loads in every process of its own.

Calls come between steps of the model: no request sees an entry that is being written. With tensor
parallelism every rank has the MLP's whole output, the same codebook, and does the same.

Only :func:`register` imports vLLM; all is written against version 0.32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

NAMESPACE_ARG = "memedit_grace"
"""The request's extra argument (``vllm_xargs``) that names the namespace to look up in."""

EDITS_ARG = "memedit_grace_edits"
"""The extra argument with the ids of the edits that a request was found to be about: their entries
alone count then, whatever their radius."""

EXTENSION = "memedit.adapters.vllm_worker.GraceWorker"
"""What ``worker_extension_cls`` is to name."""


@dataclass(eq=False)
class Table:
    """The entries of one namespace, in buffers of a fixed size.

    A row counts only while it is active. An entry is written whole before its row is.

    Args:
        capacity: most entries.
        dim: length of a key and of a value.
        like: a tensor whose device the buffers share.
        metric: ``centre`` and ``matrix`` of a :class:`memedit.grace.metric.Metric`, or neither.
    """

    capacity: int
    dim: int
    like: Any
    metric: Mapping[str, Any] = field(default_factory=dict)
    edits: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        import torch

        device = self.like.device
        self.keys = torch.zeros((self.capacity, self.dim), device=device)
        self.values = torch.zeros((self.capacity, self.dim), device=device)
        self.radii = torch.full((self.capacity,), -1.0, device=device)
        self.born = torch.zeros(self.capacity, dtype=torch.int64, device=device)
        self.active = torch.zeros(self.capacity, dtype=torch.bool, device=device)
        self.metric = {name: part.to(device) for name, part in self.metric.items()}
        self.spans = [0] * self.capacity
        self.edits = [None] * self.capacity
        self.used = 0  # rows from here on have never been written

    @property
    def bytes(self) -> int:
        """What the buffers take."""
        parts = (
            *(self.keys, self.values, self.radii, self.born, self.active),
            *self.metric.values(),
        )
        return sum(part.numel() * part.element_size() for part in parts)

    def write(self, rows: list[int], tensors: Mapping[str, Any], edits: list[str]) -> None:
        """Puts entries into rows; ``tensors`` are keys, values, radii, spans and born."""
        import torch

        at = torch.tensor(rows, device=self.active.device)
        self.active[at] = False
        for name in ("keys", "values", "radii", "born"):
            buffer = getattr(self, name)
            buffer[at] = tensors[name].to(buffer)
        for row, edit, span in zip(rows, edits, tensors["spans"].tolist(), strict=True):
            self.edits[row], self.spans[row] = edit, span
        self.active[at] = True
        self.used = max(self.used, 1 + max(rows, default=-1))

    def drop(self, rows: list[int]) -> None:
        """Takes rows out of use."""
        self.active[rows] = False
        for row in rows:
            self.edits[row] = None

    def lookup(self, queries: Any, named: list[frozenset[str] | None]) -> list[int]:
        """The row that each query fires, or -1, as :meth:`memedit.grace.codebook.Entries.lookup`.

        Args:
            queries: states, shape (n, dim).
            named: of each query the edits whose entries alone count, whatever their radius, or
                ``None``.
        """
        import torch

        if not self.used or not len(queries):
            return [-1] * len(queries)
        keys, active = self.keys[: self.used], self.active[: self.used]
        apart = torch.cdist(
            self._placed(queries.float()), keys, compute_mode="donot_use_mm_for_euclid_dist"
        )
        if self.metric:
            apart = apart.square() / 2
        apart = apart.masked_fill(~active, torch.inf)
        reach = self.radii[: self.used].expand(apart.shape)
        if any(edits is not None for edits in named):
            held = self.edits[: self.used]
            counts = torch.tensor(
                [[edits is None or one in edits for one in held] for edits in named],
                device=apart.device,
            )
            free = torch.tensor([[edits is not None] for edits in named], device=apart.device)
            apart = apart.masked_fill(~counts, torch.inf)
            reach = torch.where(free, torch.finfo(torch.float32).max, reach)
        least = apart.min(dim=1, keepdim=True).values
        # Of several that are equally near, the newest.
        born = self.born[: self.used].expand(apart.shape).masked_fill(apart > least, -1)
        nearest = born.argmax(dim=1, keepdim=True)
        inside = least <= reach.gather(1, nearest)
        return [
            row if fires else -1
            for row, fires in zip(
                nearest[:, 0].tolist(), (inside & least.isfinite())[:, 0].tolist(), strict=True
            )
        ]

    def _placed(self, states: Any) -> Any:
        """Where states lie by the metric."""
        import torch

        if not self.metric:
            return states
        moved = (states - self.metric["centre"]) @ self.metric["matrix"]
        return torch.nn.functional.normalize(moved, dim=1)


@dataclass(slots=True)
class _Held:
    """What a request's last prompt token fired: in force for its next tokens, come what may."""

    value: Any
    span: int


@dataclass(slots=True)
class _Row:
    """One request's part of a step.

    Attributes:
        request: its id.
        start, stop: its tokens in the step.
        first: the position of the first of them, less that of the prompt's last token.
        space: the namespace that it looks up in.
        named: the edits that it was found to be about, or ``None``.
    """

    request: str
    start: int
    stop: int
    first: int
    space: str
    named: frozenset[str] | None


class Site:
    """The wrapped MLP of a worker, and what its requests have fired.

    Args:
        runner: vLLM's model runner.
        mlp: the MLP.
        layer: the number of its layer.

    Attributes:
        always: the namespace of requests that are not marked, or ``None``.
        tables: the codebooks, by namespace.
        fired: how many requests each edit has fired for.
    """

    def __init__(self, runner: Any, mlp: Any, layer: int) -> None:
        self.runner = runner
        self.mlp = mlp
        self.layer = layer
        self.always: str | None = None
        self.tables: dict[str, Table] = {}
        self.fired: dict[str, int] = {}
        self._held: dict[str, _Held] = {}
        self._plan: list[_Row] = []

    def replace(self, x: Any, out: Any) -> None:
        """Puts values in the place of what the MLP gave, where the step's requests have fired.

        Args:
            x: what went into the MLP, shape (tokens, dim).
            out: what came out of it, likewise; changed in place.
        """
        import torch

        asking: dict[str, list[_Row]] = {}
        for row in self._plan:
            if row.first <= 0 < row.first + row.stop - row.start:
                asking.setdefault(row.space, []).append(row)
        for space, rows in asking.items():
            table = self.tables[space]
            last = torch.tensor([row.start - row.first for row in rows], device=x.device)
            found = table.lookup(x[last], [row.named for row in rows])
            for row, at in zip(rows, found, strict=True):
                self._held.pop(row.request, None)
                if at >= 0:
                    self._held[row.request] = _Held(table.values[at].clone(), table.spans[at])
                    edit = str(table.edits[at])
                    self.fired[edit] = self.fired.get(edit, 0) + 1
        for row in self._plan:
            held = self._held.get(row.request)
            if held is None:
                continue
            start = max(row.start, row.start - row.first)
            stop = row.stop if not held.span else min(row.stop, row.start - row.first + held.span)
            if start < stop:
                out[start:stop] = held.value.to(out)

    def plan(self) -> None:
        """Reads off the runner which tokens of the coming step are whose."""
        batch = self.runner.input_batch
        if self._held:
            self._held = {
                request: held
                for request, held in self._held.items()
                if request in self.runner.requests
            }
        self._plan = []
        starts = self.runner.query_start_loc.np
        for i, request in enumerate(batch.req_ids):
            space, named = self._marks(self.runner.requests[request].sampling_params)
            if space not in self.tables and request not in self._held:
                continue
            start, stop = int(starts[i]), int(starts[i + 1])
            first = int(batch.num_computed_tokens_cpu[i]) - int(batch.num_prompt_tokens[i]) + 1
            if space not in self.tables and first <= 0:
                continue
            self._plan.append(_Row(request, start, stop, first, str(space), named))

    def _marks(self, params: Any) -> tuple[str | None, frozenset[str] | None]:
        """A request's namespace and named edits; a mark of another form than ours is none."""
        marks = (params.extra_args if params is not None else None) or {}
        space, named = marks.get(NAMESPACE_ARG, self.always), marks.get(EDITS_ARG)
        if not isinstance(space, str) or not isinstance(named, list | tuple | None):
            return None, None
        return space, None if named is None else frozenset(map(str, named))

    def planned(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The runner's forward pass with a plan around it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.plan()
            try:
                return forward(*args, **kwargs)
            finally:
                self._plan = []

        return run


class GraceWorker:
    """Methods for vLLM's workers; see :class:`memedit.adapters.vllm_grace.EngineCodebooks`."""

    model_runner: Any

    def memedit_grace_install(self, layer: int) -> tuple[int, str]:
        """Wraps a layer's MLP, once.

        Returns:
            the length of its states, 0 where another rank of a pipeline has the layer; and what
            stands in the way, if anything does.
        """
        runner = self.model_runner
        if (made := self._memedit_site()) is not None:
            problem = "" if made.layer == layer else f"layer {made.layer} is wrapped already"
            return _dim(made.mlp), problem
        if not all(hasattr(runner, name) for name in _READ):
            return 0, "its model runner is of another kind; set VLLM_USE_V2_MODEL_RUNNER=0"
        if runner.compilation_config.mode:
            return 0, "the model is compiled, and the layer would be left out; use enforce_eager"
        layers = _decoder_layers(runner.get_model())
        if not 0 <= layer < len(layers):
            return 0, f"there is no decoder layer {layer} of {len(layers)}, from 0"
        mlp = getattr(layers[layer], "mlp", None)
        if mlp is None:
            return 0, ""
        made = Site(runner, mlp, layer)
        handle = len(_SITES)
        _SITES.append(made)
        inner, replace = mlp.forward, _operator()

        def forward(x: Any) -> Any:
            out = inner(x)
            replace(x, out, handle)
            return out

        mlp.forward = forward
        runner._model_forward = made.planned(runner._model_forward)
        setattr(runner, _SITE, made)
        return _dim(mlp), ""

    def memedit_grace_space(self, namespace: str, capacity: int, metric: bytes) -> int:
        """Makes a namespace's buffers, empty; gives their size in bytes.

        Args:
            namespace: whose.
            capacity: most entries.
            metric: safetensors with the parts of a metric, or of none.
        """
        from safetensors.torch import load

        site = self._memedit_site()
        if site is None:
            return 0
        like = next(site.mlp.parameters())
        table = Table(capacity, _dim(site.mlp), like, load(metric))
        site.tables[namespace] = table
        return table.bytes

    def memedit_grace_change(
        self, namespace: str, dropped: list[int], rows: list[int], edits: list[str], blob: bytes
    ) -> None:
        """Takes rows out of use, then writes others.

        Args:
            namespace: whose.
            dropped: rows that go.
            rows: rows that are written.
            edits: whose entries they are.
            blob: safetensors with keys, values, radii, spans and born, one row each.
        """
        from safetensors.torch import load

        site = self._memedit_site()
        if site is None:
            return
        table = site.tables[namespace]
        if dropped:
            table.drop(dropped)
        if rows:
            table.write(rows, load(blob), edits)

    def memedit_grace_always(self, namespace: str | None) -> None:
        """Which namespace requests look up in that are not marked; ``None`` for none."""
        site = self._memedit_site()
        if site is not None:
            site.always = namespace

    def memedit_grace_fired(self) -> dict[str, int]:
        """How many requests each edit's entries have fired for."""
        site = self._memedit_site()
        return dict(site.fired) if site is not None else {}

    def _memedit_site(self) -> Site | None:
        found: Site | None = getattr(self.model_runner, _SITE, None)
        return found


def register() -> None:
    """What vLLM's ``vllm.general_plugins`` names: its workers have the methods from then on.

    They are found where a worker has no attribute of that name. So an engine may name the extension
    as well, which vLLM refuses where the worker's class has its methods already.
    """
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.__getattr__ = _method


def _method(worker: Any, name: str) -> Any:
    found = vars(GraceWorker).get(name) if "memedit" in name else None
    if found is None:
        raise AttributeError(f"{type(worker).__name__!r} has no attribute {name!r}")
    return found.__get__(worker)


_SITE = "_memedit_grace_site"
_READ = ("compilation_config", "input_batch", "query_start_loc", "requests", "_model_forward")
"""What is read off vLLM's model runner: its first kind has it, and its second has not."""

_SITES: list[Site] = []


@cache
def _operator() -> Any:
    """The lookup as an operator of torch's: opaque to its compiler, which goes around it."""
    import torch

    def grace(x: Any, out: Any, handle: int) -> None:
        _SITES[handle].replace(x, out)

    operator = torch.library.custom_op(
        "memedit::grace",
        grace,
        mutates_args=("out",),
        schema="(Tensor x, Tensor(a!) out, int handle) -> ()",
    )
    operator.register_fake(lambda x, out, handle: None)
    return operator


def _decoder_layers(model: Any) -> Any:
    """The decoder layers of a language model of vLLM's."""
    inner = model.get_language_model() if hasattr(model, "get_language_model") else model
    return getattr(getattr(inner, "model", None), "layers", ())


def _dim(mlp: Any) -> int:
    """Length of what goes into an MLP: what its first linear layer takes."""
    for module in mlp.modules():
        size = getattr(module, "input_size", None)
        if size is not None:
            return int(size)
    raise ValueError(f"{type(mlp).__name__} has no linear layer that says what it takes")
