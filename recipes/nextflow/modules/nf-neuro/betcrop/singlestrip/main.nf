process BETCROP_SINGLESTRIP {
    tag "$meta.id"
    label 'process_single'

    conda "${moduleDir}/environment.yml"
    container "ghcr.io/OWNER/singlestrip:0.1.0-strip"
    containerOptions { workflow.containerEngine in ['docker', 'podman'] ? "--entrypoint ''" : '' }

    input:
    tuple val(meta), path(image), path(weights) /* optional, input = [] */

    output:
    tuple val(meta), path("*__bet_image.nii.gz") , emit: bet_image
    tuple val(meta), path("*__brain_mask.nii.gz"), emit: brain_mask
    tuple val(meta), path("*__qc.tsv")           , emit: qc, optional: true
    path "versions.yml"                          , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"

    def device = task.ext.gpu ? '--device cuda' : '--device cpu'
    def border = task.ext.border != null ? "--border=${task.ext.border}" : ''
    def nocsf = task.ext.nocsf ? '--no-csf' : ''
    def model = weights ? "--model ${weights}" : ''
    def judge = task.ext.qc ? "singlestrip qc -i ${image} -m ${prefix}__brain_mask.nii.gz -o ${prefix}__qc.tsv" : ''

    """
    singlestrip strip \\
        -i ${image} \\
        -o ${prefix}__bet_image.nii.gz \\
        -m ${prefix}__brain_mask.nii.gz \\
        --threads ${task.cpus} \\
        ${device} ${border} ${nocsf} ${model} ${args}
    ${judge}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        singlestrip: \$(singlestrip --version | sed -n 's/^singlestrip //p')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"

    """
    singlestrip strip --help > /dev/null

    touch ${prefix}__bet_image.nii.gz
    touch ${prefix}__brain_mask.nii.gz

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        singlestrip: \$(singlestrip --version | sed -n 's/^singlestrip //p')
    END_VERSIONS
    """
}
