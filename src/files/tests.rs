use super::*;
use tempfile::TempDir;

/// A temporary folder in which `DIR` is `dir`.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        Place { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn dir(&self) -> PathBuf {
        self.path("dir")
    }

    /// Makes a folder with a file `content` of this text.
    fn folder(&self, name: &str, text: &str) {
        fs::create_dir(self.path(name)).unwrap();
        fs::write(self.path(name).join("content"), text).unwrap();
    }

    /// What a reader finds.
    fn read(&self) -> Option<String> {
        let current = current_folder(&self.dir())?;
        fs::read_to_string(current.join("content")).ok()
    }

    /// Replaces the folder.
    fn write(&self, text: &str) -> Result<()> {
        replace_folder(&self.dir(), &|_| Ok(()), |partial| {
            Ok(fs::write(partial.join("content"), text)?)
        })
    }

    /// Everything beside each other, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Prepares what a process killed at some point leaves.
type Killed = fn(&Place);

/// Every point at which a replacement of "old" by "new" can be killed, with what a reader finds
/// then.
const KILLED: [(&str, Killed, &str); 6] = [
    (
        "before the first byte",
        |place| {
            place.folder("dir", "old");
            fs::write(place.path(".dir.lock"), "").unwrap();
            fs::create_dir(place.path(".dir.partial")).unwrap();
        },
        "old",
    ),
    (
        "while writing",
        |place| {
            place.folder("dir", "old");
            fs::write(place.path(".dir.lock"), "").unwrap();
            place.folder(".dir.partial", "ne");
        },
        "old",
    ),
    (
        "between the two renames",
        |place| {
            place.folder(".dir.previous", "old");
            fs::write(place.path(".dir.lock"), "").unwrap();
            place.folder(".dir.partial", "new");
        },
        "old",
    ),
    (
        "before the previous folder is removed",
        |place| {
            place.folder(".dir.previous", "old");
            fs::write(place.path(".dir.lock"), "").unwrap();
            place.folder("dir", "new");
        },
        "new",
    ),
    (
        "while the previous folder is removed",
        |place| {
            fs::create_dir(place.path(".dir.previous")).unwrap();
            fs::write(place.path(".dir.lock"), "").unwrap();
            place.folder("dir", "new");
        },
        "new",
    ),
    (
        "before the lock is removed",
        |place| {
            fs::write(place.path(".dir.lock"), "").unwrap();
            place.folder("dir", "new");
        },
        "new",
    ),
];

#[test]
fn readers_find_a_complete_folder_at_every_point_of_a_kill() {
    for (point, killed, found) in KILLED {
        let place = Place::new();
        killed(&place);
        assert_eq!(place.read().as_deref(), Some(found), "killed {point}");
    }
}

#[test]
fn the_next_replacement_repairs_every_point_of_a_kill() {
    for (point, killed, _) in KILLED {
        let place = Place::new();
        killed(&place);
        place.write("newer").unwrap();
        assert_eq!(place.read().as_deref(), Some("newer"), "killed {point}");
        assert_eq!(place.names(), ["dir"], "killed {point}");
    }
}

#[test]
fn a_failed_replacement_keeps_what_a_reader_found() {
    for (point, killed, found) in KILLED {
        let place = Place::new();
        killed(&place);
        let error = replace_folder(&place.dir(), &|_| Ok(()), |partial| {
            fs::write(partial.join("content"), "half")?;
            bail!("no space left on device")
        })
        .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("dir was not saved") && error.contains("no space left"),
            "{error}"
        );
        assert_eq!(place.read().as_deref(), Some(found), "killed {point}");
        assert_eq!(place.names(), ["dir"], "killed {point}");
    }
}

#[test]
fn a_folder_killed_before_its_first_version_is_absent() {
    let place = Place::new();
    place.folder(".dir.partial", "half");
    assert_eq!(place.read(), None);
    place.write("first").unwrap();
    assert_eq!(place.names(), ["dir"]);
}

#[test]
fn foreign_content_is_refused_before_writing_and_before_renaming() {
    let refusal = |dir: &Path| match dir.join("content").is_file() {
        true => Ok(()),
        false => bail!("{} is not ours", dir.display()),
    };
    let place = Place::new();
    fs::create_dir(place.dir()).unwrap();
    // An empty folder may be replaced.
    let replacement = Replacement::begin(&place.dir(), &refusal).unwrap();
    fs::write(place.dir().join("letter"), "dear").unwrap();
    let error = replacement.finish(&refusal).unwrap_err().to_string();
    assert!(error.contains("not ours"), "{error}");
    let error = replace_folder(&place.dir(), &refusal, |_| panic!("written"));
    assert!(error.unwrap_err().to_string().contains("not ours"));
    assert_eq!(place.names(), ["dir"]);
    let letter = fs::read_to_string(place.dir().join("letter")).unwrap();
    assert_eq!(letter, "dear");
    // A file is no folder to replace.
    let file = place.dir().join("letter");
    let error = replace_folder(&file, &refusal, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("is no folder"), "{error:#}");
}

#[test]
fn a_second_writer_of_the_same_folder_is_refused() {
    let place = Place::new();
    let first = Replacement::begin(&place.dir(), &|_| Ok(())).unwrap();
    let error = place.write("second").unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
    fs::write(first.path().join("content"), "first").unwrap();
    first.finish(&|_| Ok(())).unwrap();
    assert_eq!(place.read().as_deref(), Some("first"));
    assert_eq!(place.names(), ["dir"]);
}

#[test]
fn a_dropped_replacement_leaves_nothing() {
    let place = Place::new();
    drop(Replacement::begin(&place.dir(), &|_| Ok(())).unwrap());
    assert!(place.names().is_empty());
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_to_the_new_content() {
    let place = Place::new();
    place.folder("real", "old");
    std::os::unix::fs::symlink(place.path("real"), place.dir()).unwrap();
    place.write("new").unwrap();
    assert!(place.dir().is_symlink());
    let real = fs::read_to_string(place.path("real/content")).unwrap();
    assert_eq!(real, "new");
    // Killed between the two renames: the link leads to nothing, and still says where to look.
    fs::rename(place.path("real"), place.path(".real.previous")).unwrap();
    assert_eq!(place.read().as_deref(), Some("new"));
    place.write("newer").unwrap();
    assert_eq!(place.read().as_deref(), Some("newer"));
    assert!(place.dir().is_symlink());
    // Files as well.
    fs::write(place.path("file"), "old").unwrap();
    std::os::unix::fs::symlink("file", place.path("link")).unwrap();
    replace_file(&place.path("link"), b"new").unwrap();
    assert!(place.path("link").is_symlink());
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "new");
}

#[test]
fn a_file_is_replaced_whole_and_after_a_kill() {
    let place = Place::new();
    let file = place.path("run.json");
    replace_file(&file, b"one").unwrap();
    fs::write(
        place.path(".run.json.partial"),
        "half of what a killed process wrote",
    )
    .unwrap();
    replace_file(&file, b"two").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    assert_eq!(place.names(), ["run.json"]);
}

#[test]
fn a_file_in_a_missing_folder_is_named() {
    let place = Place::new();
    let error = replace_file(&place.path("no/such/run.json"), b"one").unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("cannot write") && error.contains("run.json"),
        "{error}"
    );
    assert!(place.names().is_empty());
}

#[test]
fn a_full_disk_is_named_and_the_file_stays() {
    let place = Place::new();
    let file = place.path("examples.jsonl");
    fs::write(&file, "before").unwrap();
    let error = replace_file_with(&file, |writer| {
        writer.write_all(b"half a line")?;
        Err(io::Error::from(ErrorKind::StorageFull).into())
    });
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("the disk is full") && error.contains("examples.jsonl"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    assert_eq!(place.names(), ["examples.jsonl"]);
    let error = write_error(Path::new("out/a.bin"), ErrorKind::StorageFull.into());
    let error = format!("{error:#}");
    assert!(
        error.contains("out/a.bin") && error.contains("disk is full"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_device_is_written_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new();
    let link = place.path("out");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    replace_file(&link, b"a line").unwrap();
    let found = fs::metadata(&link).unwrap();
    assert!(found.file_type().is_char_device() && link.is_symlink());
    assert_eq!(place.names(), ["out"]);
}

#[test]
fn hashes_are_sha256() {
    let place = Place::new();
    let path = place.path("abc");
    replace_file(&path, b"abc").unwrap();
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(b"abc"), expected);
    assert_eq!(sha256_file(&path).unwrap(), expected);
}
