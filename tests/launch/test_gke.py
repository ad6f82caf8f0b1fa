"""The manifests of GKE: complete, and of the form that JobSet's API has."""

import pytest

from tests.launch import scripts
from tests.launch.test_refusals import GKE, JOB, without

COUNT = {"type": "integer", "minimum": 1}
TEXT = {"type": "string", "minLength": 1}
LABELS = {"type": "object", "additionalProperties": TEXT}


def table(required, **properties):
  """A mapping with these keys and no others."""
  return {
    "type": "object",
    "required": required.split(),
    "properties": properties,
    "additionalProperties": False,
  }


def several(item):
  return {"type": "array", "items": item, "minItems": 1}


# The parts of jobset.x-k8s.io/v1alpha2, batch/v1 and v1 that the manifests use,
# as their reference pages define them.
CONTAINER = table(
  "name image command args resources",
  name=TEXT,
  image=TEXT,
  command=several(TEXT),
  args=several(TEXT),
  env=several(
    table(
      "name valueFrom",
      name={"pattern": "^[A-Z_]+$"},
      valueFrom=table("fieldRef", fieldRef=table("fieldPath", fieldPath=TEXT)),
    )
  ),
  ports=several(table("containerPort", containerPort=COUNT)),
  resources=table(
    "limits", limits={"type": "object", "additionalProperties": COUNT}
  ),
  volumeMounts=several(table("name mountPath", name=TEXT, mountPath=TEXT)),
)
POD = table(
  "containers restartPolicy",
  # The Pod failure policy and backoffLimitPerIndex need "Never".
  restartPolicy={"const": "Never"},
  terminationGracePeriodSeconds=COUNT,
  hostNetwork={"type": "boolean"},
  dnsPolicy={"enum": ["ClusterFirstWithHostNet", "ClusterFirst"]},
  nodeSelector=LABELS,
  containers=several(CONTAINER),
  volumes=several(
    table(
      "name",
      name=TEXT,
      persistentVolumeClaim=table("claimName", claimName=TEXT),
      emptyDir=table("", medium={"enum": ["", "Memory"]}),
    )
  ),
)
FAIL_JOB = table(
  "action onExitCodes",
  action={"enum": ["FailJob", "Ignore", "Count", "FailIndex"]},
  onExitCodes=table(
    "operator values",
    containerName=TEXT,
    operator={"enum": ["In", "NotIn"]},
    values=several({"type": "integer", "minimum": 1, "maximum": 255}),
  ),
)
JOB_SPEC = table(
  "template",
  parallelism=COUNT,
  completions=COUNT,
  completionMode={"enum": ["Indexed", "NonIndexed"]},
  backoffLimit={"type": "integer", "minimum": 0},
  podFailurePolicy=table("rules", rules=several(FAIL_JOB)),
  template=table("spec", spec=POD),
)
RULE = table(
  "name action",
  name={"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
  action={
    "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
  },
  onJobFailureReasons=several(
    {
      "enum": [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
        "PodFailurePolicy",
      ]
    }
  ),
)
JOBSET = table(
  "apiVersion kind metadata spec",
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=table(
    "name",
    # Names of Pods are longer, and at most 63 characters.
    name={"pattern": "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"},
    annotations=LABELS,
  ),
  spec=table(
    "replicatedJobs",
    network=table(
      "",
      enableDNSHostnames={"type": "boolean"},
      publishNotReadyAddresses={"type": "boolean"},
    ),
    failurePolicy=table(
      "maxRestarts",
      maxRestarts={"type": "integer", "minimum": 0},
      restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
      rules=several(RULE),
    ),
    replicatedJobs=several(
      table(
        "name replicas template",
        name={"pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"},
        replicas=COUNT,
        template=table("spec", spec=JOB_SPEC),
      )
    ),
  ),
)

ARGUMENT = '--config.note=a "quoted" $(HOME) \\ & #1: x'


def manifest(tmp_path, kind, *argv, **changes):
  """What launch/gke.sh hands to kubectl."""
  yaml = pytest.importorskip("yaml", reason="NOT CHECKED: no PyYAML")
  values = without(GKE, **changes)
  env = scripts.environment(tmp_path / "bin", DRY_RUN=1, **values)
  result = scripts.run("gke.sh", kind, *JOB, *argv, env=env)
  assert result.returncode == 0, result.stderr
  return yaml.safe_load(result.stdout)


def job_of(jobset):
  [job] = jobset["spec"]["replicatedJobs"]
  return job, job["template"]["spec"]


def container_of(jobset):
  [container] = job_of(jobset)[1]["template"]["spec"]["containers"]
  return container


@pytest.mark.parametrize(
  ("kind", "changes"), [("tpu", {}), ("tpu", {"SLICES": "4"}), ("gpu", {})]
)
def test_a_manifest_has_the_form_of_the_api(tmp_path, kind, changes):
  reason = "NOT CHECKED: no jsonschema; it comes with the extra `test`"
  jsonschema = pytest.importorskip("jsonschema", reason=reason)
  jobset = manifest(tmp_path, kind, **changes)
  jsonschema.Draft202012Validator.check_schema(JOBSET)
  jsonschema.validate(jobset, JOBSET)
  assert "${" not in str(jobset)
  mounts = {m["name"] for m in container_of(jobset)["volumeMounts"]}
  spec = job_of(jobset)[1]["template"]["spec"]
  assert mounts == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_bad_input_is_final_and_everything_else_restarts(tmp_path, kind):
  jobset = manifest(tmp_path, kind)
  job = job_of(jobset)[1]
  assert jobset["spec"]["failurePolicy"] == {
    "maxRestarts": 50,
    "restartStrategy": "BlockingRecreate",
    "rules": [
      {
        "name": "bad_input",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
      }
    ],
  }
  assert job["backoffLimit"] == 0
  [rule] = job["podFailurePolicy"]["rules"]
  assert rule == {
    "action": "FailJob",
    "onExitCodes": {
      "containerName": container_of(jobset)["name"],
      "operator": "In",
      "values": [2],
    },
  }
  # Stopped and saved is not success, or the set would be complete.
  assert "--stop_code=75" in container_of(jobset)["command"]


def test_slices_are_jobs_and_hosts_are_pods(tmp_path):
  jobset = manifest(tmp_path, "tpu", ARGUMENT, SLICES="2")
  job, spec = job_of(jobset)
  assert job["replicas"] == 2
  assert spec["parallelism"] == spec["completions"] == 16
  assert spec["template"]["spec"]["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
    "cloud.google.com/gke-tpu-topology": "4x4x4",
  }
  container = container_of(jobset)
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert container["command"][:3] == ["ddit", "train", "--distributed"]
  # Kubernetes makes "$" of "$$".
  assert [arg.replace("$$", "$") for arg in container["args"]] == [
    f"--config={JOB[0]}",
    f"--workdir={JOB[1]}",
    ARGUMENT,
  ]


def test_gpu_processes_know_each_other_by_their_pods(tmp_path):
  changes = {"HOSTS": "3", "CHIPS": "8", "ACCELERATOR": "nvidia-h100-80gb"}
  container = container_of(manifest(tmp_path, "gpu", **changes))
  assert container["args"][2:] == [
    "--coordinator=digits-node-0-0.digits:55527",
    "--num_processes=3",
    "--process_id=$(PROCESS_ID)",
  ]
  [variable] = container["env"]
  index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert variable["name"] == "PROCESS_ID"
  assert variable["valueFrom"]["fieldRef"]["fieldPath"] == index
  assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_the_manifest_goes_to_kubectl(tmp_path):
  scripts.fake(tmp_path / "bin", kubectl='echo "kubectl $*"; head -n 1')
  env = scripts.environment(tmp_path / "bin", **GKE)
  result = scripts.run("gke.sh", "tpu", *JOB, env=env)
  assert result.returncode == 0, result.stderr
  first, _, logs = result.stdout.splitlines()
  assert first == "kubectl apply -f -"
  assert logs.endswith("--selector=jobset.sigs.k8s.io/jobset-name=digits")
