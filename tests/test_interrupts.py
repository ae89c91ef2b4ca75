import os
import signal
import threading
import time

import pytest

from medvae.interrupts import ctrl_c_later


@pytest.mark.skipif(os.name != "posix", reason="needs signal masks")
def test_ctrl_c_waits_also_when_another_thread_is_handed_the_signal():
    running = threading.Event()
    threading.Thread(target=running.wait, daemon=True).start()  # a thread that does not block the signal
    done = False
    with pytest.raises(KeyboardInterrupt):
        with ctrl_c_later():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            done = True
        time.sleep(0.2)
        pytest.fail("Ctrl-C was lost")
    running.set()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_happens_without_ctrl_c():
    with ctrl_c_later():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
