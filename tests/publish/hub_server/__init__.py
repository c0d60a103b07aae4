"""A stand-in for the Hugging Face Hub: what huggingface_hub asks of it to publish and to fetch a model, and faults."""

from tests.publish.hub_server.messages import Fault, Request, User
from tests.publish.hub_server.repository import Blob, Repository
from tests.publish.hub_server.server import HubServer

__all__ = ["Blob", "Fault", "HubServer", "Repository", "Request", "User"]
