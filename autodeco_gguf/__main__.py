"""``python -m autodeco_gguf``, and the command ``autodeco-gguf``."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of what is being imported; run_command catches it later

from autodeco_gguf.cli import main

if __name__ == "__main__":
    main()
