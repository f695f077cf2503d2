"""The lookalike's core: one engine, its settings, what is loaded, what is remembered. The surfaces stand on it."""

import secrets
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Catalog, Instance
from proxy.demo.engine import Engine, Message, Model
from proxy.demo.log_bus import LogBus
from proxy.demo.parameters import SCHEMA_DEFAULTS, STRUCTURED, TEMPLATE, BadParameterError, Layer, merged
from proxy.demo.prediction import Ask, Prediction

_MOST_CHATS = 1000


def new_response_id() -> str:
    """`resp_` and 48 hex digits. D."""
    return f"resp_{secrets.token_hex(24)}"


class Lookalike:
    """LM Studio without its window."""

    def __init__(
        self,
        engine: Engine,
        behaviour: Behaviour,
        *,
        model_defaults: Layer | None = None,
        own_defaults: dict[str, Layer] | None = None,
        presets: dict[str, Layer] | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            engine: what generates.
            behaviour: settings and switches.
            model_defaults: parameters a user has set for all models in the application.
            own_defaults: by a model's key, those set for that model alone; they lie above the others.
            presets: by name; a request can ask for one.
        """
        self.engine = engine
        self.behaviour = behaviour
        self.log = LogBus()
        self.catalog = Catalog(engine, behaviour, self.log)
        self.model_defaults = model_defaults or {}
        self.own_defaults = own_defaults or {}
        self.presets = presets or {}
        self.server_session: Layer = {}
        """Parameters set in the server's tab."""
        self.chats: dict[str, list[Message]] = {}
        """Stored chats of /api/v1/chat and /v1/responses, by response id: every message up to that answer."""
        self.kept: dict[str, Any] = {}
        """What a surface keeps from one request to the next, by its own name."""
        self._held_output: dict[str, Any] | None = None

    def predict(self, instance: Instance, ask: Ask) -> Prediction:
        """A prediction; nothing happens before its events are asked for."""
        return Prediction(self, instance, ask)

    def base_config(self, model: Model, *, ignores_server_session: bool = False) -> Layer:
        """The configuration before a request says anything: what `getBasePredictionConfig` gives."""
        template: Layer = {}
        if model.template:
            jinja = {"type": "jinja", "jinjaPromptTemplate": {"template": model.template}, "stopStrings": []}
            template = {TEMPLATE: jinja}
        session = {} if ignores_server_session else self.server_session
        return merged(SCHEMA_DEFAULTS, template, self.defaults_of(model), session)

    def defaults_of(self, model: Model) -> Layer:
        """What a user has set for a model: S, KVConfig.ts, below the server's tab and presets, above the schema's."""
        return merged(self.model_defaults, self.own_defaults.get(model.key, {}))

    def config(self, model: Model, ask: Ask) -> Layer:
        """The configuration in force for a request.

        Raises:
            BadParameterError: it names a preset that is not there, and that is not ignored.
        """
        base = self.base_config(model, ignores_server_session=ask.ignores_server_session)
        if ask.preset and ask.preset not in self.presets and self.behaviour.unknown_preset == "refused":
            raise BadParameterError("preset", f'Cannot find a preset "{ask.preset}"')
        preset = self.presets.get(ask.preset or "", {})
        if not ask.is_sdk and self.behaviour.preset_scope == "structured":
            preset = {key: value for key, value in preset.items() if key == STRUCTURED}
        layer = ask.layer
        if not ask.is_sdk and not self.behaviour.request_overrides_model:
            defaults = self.defaults_of(model)  # they win over the request; the server's tab and presets over them
            layer = {key: value for key, value in layer.items() if key not in defaults}
        return merged(base, preset, layer)

    def remember(self, messages: list[Message], response_id: str | None = None) -> str:
        """Store a chat; gives its response id, a new one unless it was told to the client already."""
        response_id = response_id or new_response_id()
        self.chats[response_id] = messages
        while len(self.chats) > _MOST_CHATS:
            del self.chats[next(iter(self.chats))]
        return response_id

    def tell_output(self, event: dict[str, Any], *, is_alone: bool) -> None:
        """Tell the log what was generated; with `swap_outputs` the first of two that overlap comes second."""
        held, self._held_output = self._held_output, None
        if self.behaviour.swap_outputs and not is_alone and held is None:
            self._held_output = event
            return
        self.log.put(event)
        if held is not None:
            self.log.put(held)

    def release_output(self) -> None:
        """A prediction ended without a word: what waited for its output is told."""
        held, self._held_output = self._held_output, None
        if held is not None:
            self.log.put(held)

    async def close(self) -> None:
        """Unload everything."""
        await self.catalog.close()
