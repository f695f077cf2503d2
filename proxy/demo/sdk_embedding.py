"""/embedding of the SDK. S, lmstudio-js packages/lms-external-backend-interfaces/src/embeddingBackendInterface.ts."""

from proxy.demo.sdk_endpoints import Context, Json, Namespace, Parameter, Rpc, Specifier
from proxy.demo.sdk_llm import token_rpcs
from proxy.demo.sdk_models import ModelEndpoints, find_instance


class EmbedParameter(Parameter):
    """One text."""

    model_specifier: Specifier
    input_string: str


async def embed_string(context: Context, parameter: EmbedParameter) -> Json:
    """The embedding of one text."""
    look = context.look
    instance = find_instance(look, parameter.model_specifier, "embedding")
    with instance.in_use(look.engine.clock.now) as place:
        async with place:
            instance.status = "computingEmbedding"
            embedding, _ = await instance.loaded.embed(parameter.input_string)
    return {"embedding": embedding}


_MODELS = ModelEndpoints("embedding")
NAMESPACE = Namespace(
    "embedding",
    rpcs={**_MODELS.rpcs(), **token_rpcs("embedding"), "embedString": Rpc(EmbedParameter, embed_string)},
    channels=_MODELS.channels(),
)
