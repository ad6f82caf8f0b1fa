"""What the manifest says without the tools that know it."""

from ddit_jax.pipelines import run_facts


def test_the_commit_is_unknown_without_git(monkeypatch, tmp_path):
  (tmp_path / ".git").mkdir()
  source = tmp_path / "ddit_jax" / "__init__.py"
  monkeypatch.setattr(run_facts.ddit_jax, "__file__", str(source))
  # Git that is there, and takes the folder for none of its own.
  assert run_facts._commit() == ""
  monkeypatch.setenv("PATH", "")
  assert run_facts._commit() == ""
