"""The web page and the service: one small server over a run or a model folder, behind one guard.

``guard`` is the law of what may come in; ``bodies`` turns requests into arrays; ``model`` is the model for threads;
``service`` the api; ``snapshot``, ``watching``, ``tour`` and ``explorer`` what the page asks for; ``static`` the page
itself, plain modules without a build; ``server`` listens.
"""

from sfumato.app.python import Explorer, Service, explore, serve

__all__ = ["Explorer", "Service", "explore", "serve"]
