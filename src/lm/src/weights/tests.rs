//! Tests of safetensors files.

use super::*;

fn two_tensors() -> Vec<(String, Tensor)> {
    vec![
        ("a".to_owned(), Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([3, 2])),
        ("b".to_owned(), Tensor::from_slice(&[0.5f32]).to_kind(TensorKind::BFloat16)),
    ]
}

fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let tensors = tensors.iter().map(|(name, tensor)| Outgoing::of(name.clone(), tensor));
    super::write(path, &tensors.collect::<Result<Vec<_>>>()?)
}

#[test]
fn a_tensor_that_cannot_be_copied_is_an_error_and_no_file_remains() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let tensor = Tensor::from_slice(&[1f32, 2.0]);
    let short = Tensor::from_slice(&[1f32]);
    let broken: [Box<dyn Fn() -> Result<Tensor>>; 2] =
        [Box::new(|| Err(anyhow!("CUDA error: an illegal memory access"))), Box::new(|| Ok(short.shallow_clone()))];
    for make in broken {
        let tensors = [
            Outgoing::of("a".to_owned(), &tensor)?,
            Outgoing::new("b".to_owned(), TensorKind::Float, &[2], make)?,
            Outgoing::of("c".to_owned(), &tensor)?,
        ];
        let error = super::write(&path, &tensors).expect_err("b fails");
        assert!(format!("{error:#}").contains("cannot copy `b`: "), "{error:#}");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
    }
    Ok(())
}

#[test]
fn written_tensors_are_read_back_whole_and_by_rows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    write(&folder.path().join("model.safetensors"), &two_tensors())?;
    let mut weights = Weights::open(folder.path())?;
    assert_eq!(Vec::<f32>::try_from(weights.read_rows("a", 1, 3)?.view([-1]))?, [3.0, 4.0, 5.0, 6.0]);
    assert_eq!(Vec::<f32>::try_from(weights.take("b", &[1], TensorKind::Float, Device::Cpu)?)?, [0.5]);
    let error = weights.finish(|_| false).expect_err("a is left");
    assert!(error.to_string().ends_with("does not explain: a"), "{error}");
    let _ = weights.take("a", &[3, 2], TensorKind::Float, Device::Cpu)?;
    weights.finish(|_| false)
}

#[test]
fn a_wrong_shape_and_a_missing_tensor_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    write(&folder.path().join("model.safetensors"), &two_tensors())?;
    let mut weights = Weights::open(folder.path())?;
    let error = weights.take("a", &[2, 3], TensorKind::Float, Device::Cpu).expect_err("shape");
    assert!(error.to_string().contains("`a` has the shape [3, 2]; config.json asks for [2, 3]"), "{error}");
    let error = weights.take("c", &[1], TensorKind::Float, Device::Cpu).expect_err("missing");
    assert!(error.to_string().contains("no tensor `c`"), "{error}");
    Ok(())
}

#[test]
fn shards_are_read_as_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (number, tensor) in two_tensors().into_iter().enumerate() {
        write(&folder.path().join(format!("part-{number}.safetensors")), &[tensor])?;
    }
    let index = r#"{"weight_map": {"a": "part-0.safetensors", "b": "part-1.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index)?;
    assert_eq!(Weights::open(folder.path())?.names().collect::<Vec<_>>(), ["a", "b"]);
    std::fs::write(
        folder.path().join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "../part-0.safetensors"}}"#,
    )?;
    assert!(Weights::open(folder.path()).is_err());
    Ok(())
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused_with_the_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for (number, tensor) in two_tensors().into_iter().enumerate() {
        write(&at(&format!("part-{number}.safetensors")), &[tensor])?;
    }
    let refused = |map: &str| -> Result<String> {
        std::fs::write(at("model.safetensors.index.json"), format!("{{\"weight_map\": {map}}}"))?;
        Ok(format!("{:#}", Weights::open(folder.path()).err().with_context(|| format!("{map} is accepted"))?))
    };
    assert!(
        refused(r#"{"a": "part-0.safetensors", "b": "part-2.safetensors"}"#)?.contains("part-2.safetensors is missing")
    );
    let other = refused(r#"{"a": "part-0.safetensors", "b": "part-0.safetensors"}"#)?;
    assert!(other.contains("lists `b` in part-0.safetensors, but no shard contains this tensor"), "{other}");
    let swapped = refused(r#"{"a": "part-1.safetensors", "b": "part-0.safetensors"}"#)?;
    assert!(swapped.contains("lists `a` in part-1.safetensors, but part-0.safetensors contains it"), "{swapped}");
    for (map, words) in [
        ("{}", "`weight_map` is empty"),
        ("[]", "no `weight_map`"),
        (r#"{"a": 3}"#, "3 is not a file name"),
        (r#"{"a": ""}"#, "outside the folder"),
        (r#"{"a": "/etc/hosts"}"#, "outside the folder"),
    ] {
        assert!(refused(map)?.contains(words), "{map}");
    }
    write(&at("part-1.safetensors"), &two_tensors())?;
    let twice = refused(r#"{"a": "part-0.safetensors", "b": "part-1.safetensors"}"#)?;
    assert!(twice.contains("both contain `a`"), "{twice}");
    Ok(())
}

#[test]
fn pickled_weights_pointers_and_whole_numbers_are_refused_with_a_way_out() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let refused = || -> Result<String> {
        let error = Weights::open(folder.path()).err().context("the folder is accepted")?;
        Ok(raisin_base::error::render(&error))
    };
    std::fs::write(at("pytorch_model.bin"), "")?;
    let pickled = refused()?;
    assert!(
        pickled.contains("has no model.safetensors") && pickled.contains("pytorch_model.bin is pickled"),
        "{pickled}"
    );
    assert!(pickled.contains("AutoModelForCausalLM.from_pretrained('FOLDER').save_pretrained('FOLDER')"), "{pickled}");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    std::fs::write(at("model.safetensors"), pointer)?;
    assert!(refused()?.contains("model.safetensors is a pointer of git LFS"), "{}", refused()?);
    assert!(refused()?.contains("git lfs pull"));
    let numbers = Tensor::from_slice(&[1i32, 2]);
    write(&at("model.safetensors"), &[("a".to_owned(), numbers)])?;
    let error = Weights::open(folder.path())?.take("a", &[2], TensorKind::Float, Device::Cpu).expect_err("integers");
    assert!(error.to_string().contains("`a` has elements of the type Int"), "{error}");
    Ok(())
}
