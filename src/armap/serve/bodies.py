"""What requests and answers hold, and the OpenAPI document that says so.

Source: vLLM 0.33.0, `vllm/entrypoints/pooling/{base,classify,pooling}/protocol.py`, `serve/engine/protocol.py` and the
handlers of its errors, for names, forms and defaults of fields and for status codes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json

from armap import __version__
from armap.rewards.conversation import REASONING_FIELDS
from armap.rewards.http import SHORTENED, UNREAD_PICTURES, WITHOUT_STEPS

UNSUPPORTED = (
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "dimensions",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "normalize",
    "padding",
    "tools",
    "truncate_prompt_tokens",
    "truncation_side",
)
"""Fields that vLLM heeds or refuses and that would change a score; they are refused rather than overlooked."""
_BESIDE_CONTENT = ("tool_calls", "function_call", *REASONING_FIELDS)
"""Fields of a message that tell what was done or thought, where only its content is read."""

_HEADERS = {
    SHORTENED: "1 if the conversation was longer than the model reads and was shortened, otherwise 0; "
    "texts are refused instead.",
    WITHOUT_STEPS: "1 if whole steps of the conversation were left out, as nothing else made it short enough.",
    UNREAD_PICTURES: "How many pictures were not read: all if the model sees none, otherwise those beyond its limits.",
}
"""What an answer says of what was not read."""


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        param: what of the request it is about.
        retry_after_s: when to come back.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.retry_after_s = retry_after_s


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class TextPart(_Body):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImageURL(_Body):
    """Where a picture is."""

    url: str = Field(description="A data URI with a PNG, JPEG or WebP file, such as `data:image/png;base64,...`.")


class ImagePart(_Body):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageURL


class ChatMessage(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class _Request(_Body):
    model: str | None = Field(
        default=None, description="The model's id; it is refused if it is not that of `/v1/models`."
    )
    user: str | None = None
    request_id: str | None = Field(default=None, max_length=256, description="Goes into the answer's id.")
    use_activation: bool | None = Field(
        default=None,
        description="True for the logistic function of the score; false or left out for the score as it is. vLLM "
        "differs: left out, it applies the function.",
    )
    activation: bool | None = Field(default=None, description="An older name of `use_activation`.")

    @property
    def activated(self) -> bool:
        """Whether the logistic function of the score is asked for."""
        return bool(self.activation if self.use_activation is None else self.use_activation)


class _TextFields(_Request):
    input: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="One text or several, each scored as it stands."
    )


class _ChatFields(_Request):
    messages: list[ChatMessage] = Field(
        min_length=1,
        description="One conversation: the task, then in turns what was seen and, as `assistant`, what was done.",
    )


class _PoolingFields(BaseModel):
    task: Literal["classify", "reward"] | None = None
    encoding_format: Literal["float"] = "float"


class ClassificationCompletionRequest(_TextFields):
    """Asks `/classify` about texts."""


class ClassificationChatRequest(_ChatFields):
    """Asks `/classify` about a conversation."""


class PoolingCompletionRequest(_PoolingFields, _TextFields):
    """Asks `/pooling` about texts."""


class PoolingChatRequest(_PoolingFields, _ChatFields):
    """Asks `/pooling` about a conversation."""


TextRequest = ClassificationCompletionRequest | PoolingCompletionRequest
ChatRequest = ClassificationChatRequest | PoolingChatRequest


class UsageInfo(BaseModel):
    """Tokens read; 1 for each trajectory where the reward model reads no tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


class ClassificationData(BaseModel):
    """What is said of one text or of the conversation."""

    index: int
    label: str | None
    probs: list[float] = Field(min_length=1, max_length=1, description="The score.")
    num_classes: Literal[1] = 1


class ClassificationResponse(BaseModel):
    """Answer of `/classify`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ClassificationData]
    usage: UsageInfo


class PoolingResponseData(BaseModel):
    """What is said of one text or of the conversation."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] = Field(min_length=1, max_length=1, description="The score.")


class PoolingResponse(BaseModel):
    """Answer of `/pooling`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PoolingResponseData]
    usage: UsageInfo


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "armap"
    root: str
    parent: str | None = None
    max_model_len: int | None = None
    permission: list[Any] = []


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorInfo(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorResponse(BaseModel):
    """Answer in place of any other."""

    error: ErrorInfo


def text_or_chat(body: bytes, kinds: tuple[type[TextRequest], type[ChatRequest]]) -> TextRequest | ChatRequest:
    """Return the request that a body holds.

    Args:
        body: JSON.
        kinds: the two requests that a route takes.

    Raises:
        Refusal: it is no such request.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict) or ("messages" in fields) == ("input" in fields):
        raise Refusal(HTTPStatus.BAD_REQUEST, "The body must be a JSON object with either `messages` or `input`.")
    for name in UNSUPPORTED:
        if fields.get(name) not in (None, False, [], {}):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"`{name}` is not supported; leave it out.", param=name)
    if fields.get("add_special_tokens") not in (None, True):
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "Special tokens are always added; leave `add_special_tokens` out.",
            param="add_special_tokens",
        )
    _check_messages(fields.get("messages"))
    try:
        return kinds["messages" in fields].model_validate(fields)
    except ValidationError as error:
        where, what = _first_wrong(error, fields)
        raise Refusal(HTTPStatus.BAD_REQUEST, f"{where}: {what}.", param=where) from None


def _check_messages(messages: object) -> None:
    """Refuse messages that say something where nobody reads it."""
    for i, message in enumerate(messages if isinstance(messages, list) else []):
        for name in _BESIDE_CONTENT:
            if isinstance(message, dict) and message.get(name):
                raise Refusal(
                    HTTPStatus.BAD_REQUEST,
                    f"`{name}` of a message is not read; write what it says into the message's `content`.",
                    param=f"messages.{i}.{name}",
                )


def _first_wrong(error: ValidationError, fields: dict[str, Any]) -> tuple[str, str]:
    """Return where the first thing is that is wrong in a request, in the request's own words, and what is wrong."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = found[0]
    *place, branch = first["loc"]
    what = first["msg"]
    if branch == "str":
        # What may be a text or a list is wrong as either; what it should have been is what it is most like.
        first = next(one for one in found[1:] if one["loc"][: len(place)] == tuple(place))
        what = "Input should be a string or a list" if first["type"] == "list_type" else first["msg"]
    if first["type"] in ("model_type", "model_attributes_type"):
        what = "Input should be an object"
    # Names of alternatives stand between those of fields.
    where: list[str] = []
    inside: Any = fields
    for part in first["loc"]:
        try:
            inside = inside[part]
        except (LookupError, TypeError):
            continue
        where.append(str(part))
    if first["type"] == "missing":
        where.append(str(first["loc"][-1]))
    return ".".join(where), what


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """Return an error in the form that OpenAI and vLLM give it."""
    kind = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}.get(
        status, HTTPStatus(status).phrase
    )
    return ErrorResponse(error=ErrorInfo(message=message, type=kind, param=param, code=status)).model_dump()


def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the service."""
    requests: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
        "/classify": (ClassificationCompletionRequest, ClassificationChatRequest),
        "/pooling": (PoolingCompletionRequest, PoolingChatRequest),
    }
    answers: dict[str, type[BaseModel]] = {"/classify": ClassificationResponse, "/pooling": PoolingResponse}
    every: list[type[BaseModel]] = [*answers.values(), ModelList, ErrorResponse]
    for kinds in requests.values():
        every += kinds
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in every], ref_template="#/components/schemas/{model}"
    )
    plain = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    paths: dict[str, Any] = {
        "/health": {"get": _operation("Say that the service is well.", {"200": {"description": "It is."}})},
        "/metrics": {
            "get": _operation("Return metrics as Prometheus reads them.", {"200": {"description": "Metrics.", **plain}})
        },
        "/v1/models": {"get": _operation("Name the reward model.", {"200": _json("The model.", ModelList)})},
        "/openapi.json": {
            "get": _operation(
                "Return this document.",
                {"200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}},
            )
        },
    }
    for path, kinds in requests.items():
        body = {"anyOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]}
        headers = {name: {"description": told, "schema": {"type": "integer"}} for name, told in _HEADERS.items()}
        scored = {"200": _json("The scores, in order.", answers[path]) | {"headers": headers}} | {
            str(status): _json(HTTPStatus(status).phrase, ErrorResponse)
            for status in (400, 404, 408, 413, 422, 500, 503)
        }
        paths[path] = {
            "post": _operation("Score texts or a conversation.", scored)
            | {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "armap", "version": __version__, "summary": "A reward model as a service."},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Without a token of its own, a service answers everyone who reaches it.
        "security": [{}, {"token": []}],
    }


def _operation(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    refused = {
        "401": _json("The token is missing or wrong.", ErrorResponse),
        "421": _json("The service is for its own machine.", ErrorResponse),
    }
    return {"summary": summary, "responses": responses | refused}


def _json(description: str, kind: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
