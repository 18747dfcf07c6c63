"""Where it runs and what it costs: service, cluster, plan; never part of a result."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Replicas:
    """How many copies of one part of the service run, and what each of them takes."""

    least: int = 1
    """Copies that always run."""
    most: int = 1
    """More than `least` lets Serve add copies while requests wait, and take them away again."""
    cpus: float = 1.0
    """Logical CPUs of a copy."""
    gpus: float = 0.0
    """GPUs of a copy; a part of one is allowed."""
    batch: int = 8
    """Requests worked on together at most."""
    wait_ms: float = 2.0
    """How long a first request waits for others to come with it."""
    up_s: float = 30.0
    """Seconds of too many requests (Serve averages over 30 s) before a copy is added."""
    down_s: float = 600.0
    """Seconds of too few before one is taken away."""


@dataclass
class LightReplicas(Replicas):
    """Parts that need less than a core."""

    cpus: float = 0.5
    batch: int = 32


@dataclass
class RequestLimits:
    """How much each client of the service may ask: by its key, or without keys by its address."""

    a_minute: int = 0
    """Requests a minute on average; 0 = no bound."""
    burst: int = 0
    """Of these, at once; 0 = as many as a minute's."""
    a_day: int = 0
    """Requests in a day (UTC); 0 = no bound."""


@dataclass
class Serve:
    """The HTTP service."""

    host: str = "127.0.0.1"
    """Address that is listened on; 0.0.0.0 = all of the machine."""
    port: int = 8000
    """Of HTTP."""
    require_key: bool = False
    """Whether clients must send one of the keys in $DENOISED_WEIGHTS_API_KEYS."""
    keys_file: str = ""
    """Instead of that variable: a file of keys, one a line, or sha256:HEX; it may change while the
    service runs."""
    access_log: str = ""
    """A file that gets a line of JSON for each request, without texts and pictures; - = standard
    output."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    allowed_origins: list[str] = field(default_factory=list)
    """Origins of other people's pages that may call the service from a browser (CORS), such as
    https://my.org; [*] = all."""
    max_text: int = 200
    """Characters of a concept's text."""
    max_image_bytes: int = 4_000_000
    """Of one uploaded picture."""
    max_pixels: int = 25_000_000
    """Of an uploaded image, once decoded."""
    max_upload_bytes: int = 64_000_000
    """Of all pictures of a fine-tune."""
    max_steps: int = 50
    """Evaluations of the weight generator for one adapter."""
    max_ongoing: int = 32
    """Requests worked on at once by a copy of the HTTP part; further ones wait."""
    max_queued: int = 64
    """Requests that wait for a copy of the HTTP part; further ones get 503."""
    timeout_s: float = 60.0
    """A request that takes longer is ended."""
    cache: int = 64
    """Adapters that a translator keeps merged, and a weight generator as tensors."""
    max_pairs: int = 64
    """Of an uploaded fine-tune."""
    max_finetune_steps: int = 500
    """Of one fine-tune."""
    finetunes: int = 1
    """Fine-tunes that run at once."""
    finetunes_waiting: int = 8
    """Fine-tunes that wait; further ones get 503."""
    finetunes_kept: int = 100
    """Fine-tunes whose files are kept; the oldest go first."""
    api: LightReplicas = field(default_factory=LightReplicas)
    text: LightReplicas = field(default_factory=LightReplicas)
    weights: Replicas = field(default_factory=Replicas)
    translator: Replicas = field(default_factory=Replicas)


@dataclass
class Cluster:
    """Where Ray runs and how a stage spreads; never part of a result."""

    address: str = ""
    """HOST:PORT of a Ray cluster's head, or auto on one of its machines; local = a Ray of this
    machine; empty = $RAY_ADDRESS, or else local."""
    actors: int = 0
    """Processes that a stage works with. 0 = as many as there is room for: those of
    nodes × gpus_per_node where both are stated; on another cluster as many as get a place, nodes
    that come later included; on one machine one for each share of its GPUs, or without GPUs one for
    each core but one (two on two cores) as far as its memory goes. What is made does not depend on
    it."""
    cpus_per_actor: float = 1.0
    """Logical CPUs of an actor, and its threads."""
    gpus_per_actor: float = 0.0
    """GPUs of an actor; a part of one is allowed."""
    editor_actors: dict[str, int] = field(default_factory=dict)
    """Editor → actors, where not `actors`."""
    editor_gpus: dict[str, float] = field(default_factory=dict)
    """Editor → GPUs of an actor, where not `gpus_per_actor`."""
    stall_timeout_s: int = 21600
    """A Ray Data stage of which no row has been finished for so long fails. One row may be a
    thousand edits; a cluster may wait for nodes."""
    gpu_training: bool = False
    """One GPU for each training worker."""
    training_cpus: float = 1.0
    """Logical CPUs of a training worker; Ray Data reads with those that no worker takes."""
    least_workers: int = 0
    """Where nodes are missing, training goes on with as few workers as this, each with the batch it
    had, and takes in more when they come (elastic); 0 = it waits for all."""
    shared_storage: bool = False
    """A local run_dir is a mount (NFS, Lustre) that every node sees."""
    training_threads: int = 0
    """Threads of a training worker; 0 = an equal share of the machine's cores, and where one worker
    has them, fewer as long as that is faster, because others use the machine."""
    compile: bool = False
    """torch.compile of the passes of base, gans and generator: each process compiles for up to
    minutes, in `gans` again for each length of prompt; steps then take less time, or more."""
    nodes: int = 1
    """Machines of the cluster, for `denoised-weights plan` and actors=0; Ray finds them itself."""
    gpus_per_node: int = 0
    """GPUs of each; likewise."""


@dataclass
class Plan:
    """What `denoised-weights plan` assumes where it has not measured; never part of a result."""

    price: float = 0.0
    """Money for an hour of one GPU, or of one actor where there is none; 0 = not known."""
    evaluations: dict[str, int] = field(default_factory=dict)
    """Denoiser evaluations an edit, by editor; others by the method (pipelines/plan/rates.py)."""
    gpu_tflops: float = 495.0
    """Peak of one GPU in training, TF32 without sparsity (NVIDIA's data sheet, H100 SXM)."""
    training_utilisation: float = 0.1
    """Part of the peak that training reaches: the paper's E²GAN takes 198.5 s for 400 images × 100
    epochs on an H100, 202 images/s of 0.25 TFLOP (modeling/cost.py)."""
    finetune_utilisation: float = 0.094
    """The same of the fine-tune: 42.1 s for 400 images × 20 epochs, 190 images/s."""
    editor_tflops: float = 312.0
    """Peak of one GPU in the editors' float16, without sparsity (NVIDIA's data sheet, A100)."""
    editor_utilisation: float = 0.24
    """Part of it that a diffusion editor reaches: diffusers' documentation ("PyTorch 2.0") gives
    Stable Diffusion img2img 11.5 steps/s of 4 pictures on an A100, each step 2 × 0.80 TFLOP."""
    core_gflops: float = 70.0
    """What a CPU core reaches: 8 images of 0.15 GFLOP in 17 ms
    (tests/bench/results/serial_times_small.json)."""
    exact_edits_per_s: float = 470.0
    """Edits of an exact editor by one core, drawn and encoded: 127,080 in 136 s on two, 32×32
    (tuning/results/small/summary.json)."""
    texts_per_s: float = 200.0
    """Texts embedded by the driver: 6,561 in 33 s (the same)."""
    texts_loaded_per_s: float = 1000.0
    """Embeddings that one process reads back: 6,561 in 6 s (the same run)."""
    files_per_s: float = 1000.0
    """Small files that one process reads, one after another: 1 ms each on a local disk; an object
    store takes 100 ms and more (Amazon's guide to the performance of S3), so about 10."""
    requests_per_s: float = 350.0
    """Small files that one process reads at most, however many at once: s3fs on one of two cores
    (tests/rehearsal/results.json)."""
    write_mb_per_s: float = 100.0
    """What one actor writes to the run directory."""
    overhead_s: float = 5.0
    """Start and end of a stage's actors: `weights` of the demo takes 4.7 s
    (tests/bench/results/demo_stages.json)."""
