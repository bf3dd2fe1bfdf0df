"""For `twistd -y raccoon.tac`: the service, configured by the environment and config.yaml."""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from raccoon import config
from raccoon.errors import RaccoonError
from raccoon.tap import service_for, show_errors_in_one_line

show_errors_in_one_line()
application = Application("raccoon")
try:
    settings = config.load({}, os.environ, config.default_file())
    service_for(reactor, settings).setServiceParent(application)
except RaccoonError as error:
    raise SystemExit(f"raccoon: {error}") from None
