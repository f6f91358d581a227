"""Runs a script in several processes that are one job, on CPU devices."""

import os
import pathlib
import socket

import scripts


def child(script, arguments, folder, devices, cache):
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0"
    )
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    scripts.main(script, arguments, folder, None)


class Job:
    """The processes of one run, and what they said."""

    def __init__(self, folder, script, *arguments, processes, devices=1):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.folders = [pathlib.Path(folder) / f"p{i}" for i in range(processes)]
        self.processes = []
        for i, own in enumerate(self.folders):
            own.mkdir(parents=True, exist_ok=True)
            several = [
                f"--coordinator=localhost:{port}",
                f"--num_processes={processes}",
                f"--process_id={i}",
            ]
            # One process is started as a user starts it.
            told = [*arguments, *(several if processes > 1 else [])]
            args = (script, told, own, devices, pathlib.Path(folder) / "cache")
            self.processes.append(scripts.context.Process(target=child, args=args))
            self.processes[-1].start()

    def alive(self):
        return any(process.is_alive() for process in self.processes)

    def ended(self, seconds):
        """Exit statuses, all within so many seconds; and what went to standard error."""
        for process in self.processes:
            process.join(seconds)
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
        said = [(own / "err.txt").read_text() for own in self.folders]
        assert not hanging, said
        return [process.exitcode for process in self.processes], said
