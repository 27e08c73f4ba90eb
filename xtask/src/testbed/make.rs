//! Building the testbed with debootstrap.
//!
//! debootstrap works in two stages: the first unpacks the base and fetches all packages; the second, inside the new
//! root, installs them. The recipe's files are put in between.
//!
//! The root grows in a sibling directory that is renamed when it is complete, and a stamp file written last says that
//! it is: what an interrupted run leaves behind is never taken for a testbed. A lock keeps two runs from building at
//! once.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use super::{Root, default_path, recipe, require_root};
use crate::command;

/// Relative to the root: holds the recipe's hash once everything else is there.
const STAMP: &str = "etc/cryopod-testbed";

const SCRIPTS: &str = "/usr/share/debootstrap/scripts";

/// Gives the testbed, building it when there is none yet.
pub fn make() -> Result<Root> {
    let path = default_path()?;
    if is_complete(&path) {
        return Ok(Root { path });
    }
    require_root("making the testbed")?;
    let parent = path
        .parent()
        .context("the testbed cannot be the file system's root")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let _lock = lock(&sibling(&path, "lock"))?;
    if !is_complete(&path) {
        eprintln!("making the testbed in {} (once)", path.display());
        build(&path)?;
    }
    Ok(Root { path })
}

fn is_complete(path: &Path) -> bool {
    fs::read_to_string(path.join(STAMP)).is_ok_and(|stamp| stamp == stamp_text())
}

fn stamp_text() -> String {
    format!("{:016x}\n", recipe::hash())
}

/// `PATH.WHAT`, beside the path.
fn sibling(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn build(path: &Path) -> Result<()> {
    install_debootstrap()?;
    let staging = sibling(path, "new");
    for stale in [&staging, &path.to_path_buf()] {
        remove(stale)?;
    }
    fetch(&staging)?;
    prepare(&staging)?;
    install(&staging)?;
    let stamp = staging.join(STAMP);
    fs::write(&stamp, stamp_text()).with_context(|| format!("cannot write {}", stamp.display()))?;
    fs::rename(&staging, path)
        .with_context(|| format!("cannot rename {} to {}", staging.display(), path.display()))
}

/// Removes what an earlier, interrupted build left. `--one-file-system`: should something still be mounted in there,
/// it is not ours to delete.
fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if path
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_none())
    {
        return fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()));
    }
    // Only ever delete what debootstrap made.
    if !path.join("debootstrap").exists() && !path.join("etc/debian_version").exists() {
        bail!(
            "{} is neither a testbed nor empty; not touching it",
            path.display()
        );
    }
    command::succeed(
        Command::new("rm")
            .args(["-rf", "--one-file-system"])
            .arg(path),
    )
}

fn install_debootstrap() -> Result<()> {
    if Path::new(SCRIPTS).is_dir() {
        return Ok(());
    }
    eprintln!("debootstrap is missing: installing it");
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends", "debootstrap"]);
    if command::status(&mut install)?.success() {
        return Ok(());
    }
    // The package lists may be missing or old.
    command::succeed(apt_get().arg("update"))?;
    command::succeed(&mut install).context("debootstrap is needed to make the testbed")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    command
}

/// The first stage.
fn fetch(root: &Path) -> Result<()> {
    let mut command = Command::new("debootstrap");
    command
        .args(["--foreign", "--variant=minbase"])
        .arg(format!("--include={}", recipe::PACKAGES.join(",")))
        .arg(recipe::SUITE)
        .arg(root)
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    if let Some(proxy) = apt_proxy() {
        command.env("http_proxy", proxy);
    }
    let script = script(root)?;
    match (mirror(), script) {
        (None, None) => {}
        (Some(mirror), None) => {
            command.arg(mirror);
        }
        (mirror, Some(script)) => {
            // An empty mirror means debootstrap's default.
            command.arg(mirror.unwrap_or_default()).arg(script);
        }
    }
    command::succeed(&mut command).with_context(|| failure(root))
}

/// Puts the recipe's files where the packages look for them.
fn prepare(root: &Path) -> Result<()> {
    for file in recipe::PREPARED {
        let path = root.join(file.path);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, file.contents)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The second stage, and the removal of what was fetched for it. In a mount namespace of its own: the stage mounts
/// /proc, which an interrupted one would leave mounted.
fn install(root: &Path) -> Result<()> {
    const SCRIPT: &str =
        "chroot \"$1\" /debootstrap/debootstrap --second-stage && chroot \"$1\" apt-get clean";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-c", SCRIPT, "install"])
        .arg(root)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    command::succeed(&mut command).with_context(|| failure(root))
}

fn failure(root: &Path) -> String {
    format!(
        "cannot make the testbed; {} may say why",
        root.join("debootstrap/debootstrap.log").display()
    )
}

/// The script to give debootstrap, when it does not know the suite by itself: a link of the suite's name to an older
/// script, beside the new root so that nothing of the system is changed.
fn script(root: &Path) -> Result<Option<PathBuf>> {
    if Path::new(SCRIPTS).join(recipe::SUITE).exists() {
        return Ok(None);
    }
    let directory = sibling(root, "scripts");
    let link = directory.join(recipe::SUITE);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    if fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink(Path::new(SCRIPTS).join(recipe::FALLBACK_SCRIPT), &link)
            .with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(Some(link))
}

/// The Debian archive that apt is configured with here, if there is one.
fn mirror() -> Option<String> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(COMPONENT)",
        "Created-By: Packages",
    ]);
    mirror_of(&command::stdout(&mut targets).ok()?)
}

/// Picks the archive out of lines `URI COMPONENT`: Debian's own archives end in `/debian`, and only `main` is wanted.
fn mirror_of(targets: &str) -> Option<String> {
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, component)| *component == "main")
        .map(|(uri, _)| uri.trim_end_matches('/'))
        .find(|uri| uri.ends_with("/debian"))
        .map(str::to_owned)
}

/// The proxy that apt is configured with, if there is one; debootstrap's downloads have to take the same way.
fn apt_proxy() -> Option<String> {
    let mut config = Command::new("apt-config");
    config.args(["shell", "proxy", "Acquire::http::Proxy"]);
    proxy_of(&command::stdout(&mut config).ok()?)
}

/// Reads `proxy='URL'`.
fn proxy_of(line: &str) -> Option<String> {
    let value = line.trim().strip_prefix("proxy='")?.strip_suffix('\'')?;
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{mirror_of, proxy_of};

    #[test]
    fn mirror_is_the_main_archive() {
        let targets = "http://a.example/debian-security/ main\n\
                       https://b.example/other stable\n\
                       http://c.example/debian/ contrib\n\
                       http://d.example/debian/ main\n";
        assert_eq!(
            mirror_of(targets).as_deref(),
            Some("http://d.example/debian")
        );
        assert_eq!(mirror_of("https://b.example/ubuntu/ main\n"), None);
        assert_eq!(mirror_of(""), None);
    }

    #[test]
    fn proxy_is_read_from_the_shell_form() {
        assert_eq!(
            proxy_of("proxy='http://p.example:3142'\n").as_deref(),
            Some("http://p.example:3142")
        );
        assert_eq!(proxy_of("proxy='DIRECT'"), None);
        assert_eq!(proxy_of(""), None);
    }
}
