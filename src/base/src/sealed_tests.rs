//! Records cut and changed at every place.

use std::cell::RefCell;

use super::*;

struct Heard(RefCell<Vec<String>>);

impl Heard {
    fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    fn hear(&self, text: &str) {
        self.0.borrow_mut().push(text.to_owned());
    }
}

fn write(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
    replace(path, &lengths, |part| Ok(Cow::Borrowed(parts[part])))
}

fn all(record: &Record) -> Result<Vec<Vec<u8>>> {
    (0..record.parts()).map(|part| record.read(part)).collect()
}

#[test]
fn a_record_comes_back_and_one_that_was_cut_or_changed_anywhere_is_set_aside() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state");
    assert!(open(&path, &|_| panic!("nothing was damaged"))?.is_none());
    let parts: [&[u8]; 3] = [b"first", b"", b"the third"];
    write(&path, &parts)?;
    let record = open(&path, &|text| panic!("{text}"))?.expect("just written");
    assert_eq!(all(&record)?, parts);
    let mut pieces = Vec::new();
    record.read_in_pieces(2, 4, &mut |piece| {
        pieces.push(piece.to_vec());
        Ok(())
    })?;
    assert_eq!(pieces, [&b"the "[..], b"thir", b"d"]);
    let whole = std::fs::read(&path)?;
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    damaged.push([&whole[..], b"x"].concat());
    damaged.push([&whole[..], &whole[..]].concat());
    for place in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        damaged.push(flipped);
    }
    for bytes in damaged {
        std::fs::write(&path, &bytes)?;
        let heard = Heard::new();
        assert!(open(&path, &|text| heard.hear(text))?.is_none(), "{bytes:?}");
        assert_eq!(
            heard.0.take(),
            [
                "state is damaged (its seal does not match its content): the file is kept as state.damaged, and its work is done again"
            ]
        );
        assert!(!path.exists());
        assert_eq!(std::fs::read(folder.path().join("state.damaged"))?, bytes);
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_and_stays_where_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state");
    std::os::unix::fs::symlink(&path, &path)?;
    let error = open(&path, &|text| panic!("{text}")).expect_err("a link to itself cannot be opened");
    assert!(format!("{error:#}").starts_with(&format!("cannot open {}: ", path.display())), "{error:#}");
    assert!(path.is_symlink());
    Ok(())
}

#[test]
fn a_folder_in_place_of_a_record_is_set_aside() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state");
    std::fs::create_dir(&path)?;
    let heard = Heard::new();
    assert!(open(&path, &|text| heard.hear(text))?.is_none());
    assert!(heard.0.take()[0].starts_with("state is damaged (") && !path.exists());
    Ok(())
}

#[test]
fn a_newer_record_replaces_the_older_and_one_that_fails_leaves_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state");
    write(&path, &[b"old"])?;
    write(&path, &[b"newer"])?;
    let failing =
        |part: usize| if part == 0 { Ok(Cow::Borrowed(&b"begun"[..])) } else { Err(crate::error::anyhow!("lost")) };
    let error = replace(&path, &[5, 5], failing).expect_err("the second part fails");
    assert!(format!("{error:#}").ends_with("lost"), "{error:#}");
    assert!(replace(&path, &[4], |_| Ok(Cow::Borrowed(b"longer"))).is_err());
    assert_eq!(all(&open(&path, &|text| panic!("{text}"))?.expect("the newer"))?, [b"newer"]);
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
    Ok(())
}

/// Three records; those that were there before, and what was heard.
fn run(path: &Path) -> Result<(usize, Vec<String>)> {
    let heard = Heard::new();
    let decode = |record: &Record| record.read(0).ok().filter(|bytes| bytes != b"unknown");
    let (mut records, earlier) = Records::open(path, &|text| heard.hear(text), decode)?;
    let expected = [&b"one"[..], b"two", b"three"];
    assert_eq!(earlier, expected[..earlier.len()]);
    for bytes in &expected[earlier.len()..] {
        records.append(&[bytes, b"more"])?;
    }
    records.sync()?;
    Ok((earlier.len(), heard.0.take()))
}

#[test]
fn records_cut_or_changed_anywhere_are_made_again_and_only_those() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("parts");
    assert_eq!(run(&path)?, (0, vec![]));
    assert_eq!(run(&path)?, (3, vec![]));
    let whole = std::fs::read(&path)?;
    let length = |bytes: &[u8]| 4 + 4 + 2 * 8 + bytes.len() + 4 + 32;
    let ends = [0, length(b"one"), length(b"one") + length(b"two"), whole.len()];
    let before = |place: usize| ends.iter().rposition(|end| *end <= place).expect("0");
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut])?;
        let (left, heard) = run(&path)?;
        assert_eq!((left, heard.is_empty()), (before(cut), ends.contains(&cut)), "cut at {cut}");
        assert_eq!(std::fs::read(&path)?, whole);
    }
    for place in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        std::fs::write(&path, &flipped)?;
        let (left, heard) = run(&path)?;
        assert_eq!((left, heard.len()), (before(place), 1), "flipped at {place}");
        assert_eq!(std::fs::read(&path)?, whole);
        assert_eq!(std::fs::read(folder.path().join("parts.damaged"))?, flipped[ends[left]..]);
    }
    Ok(())
}

#[test]
fn a_record_that_is_whole_and_not_understood_ends_the_list() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("parts");
    let (mut records, _) = Records::open(&path, &|_| (), |_| Some(()))?;
    records.append(&[b"one", b"more"])?;
    records.append(&[b"unknown"])?;
    records.append(&[b"two", b"more"])?;
    let (left, heard) = run(&path)?;
    assert_eq!(left, 1);
    assert!(heard[0].starts_with("parts is damaged after its first "), "{heard:?}");
    Ok(())
}
