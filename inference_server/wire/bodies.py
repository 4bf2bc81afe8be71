"""What all HTTP bodies of trainer and server have in common."""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request body or a part of one: unknown fields are an error that names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseBody(BaseModel):
    """A response body or a part of one: unknown fields are ignored, so a server may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)
