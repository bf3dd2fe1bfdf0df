"""For `twistd -y raccoon.tac`: the service, configured by the environment alone."""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from raccoon import config
from raccoon.app import RaccoonService
from raccoon.tap import show_errors_in_one_line

show_errors_in_one_line()
application = Application("raccoon")
RaccoonService(reactor, config.load({}, os.environ, config.default_file())).setServiceParent(
    application
)
