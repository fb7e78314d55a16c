# What is copied to the machines: this checkout, and the wheels that vagrant/stage.sh gathered, an archive each. An upload needs
# neither guest additions nor rsync nor NFS, and works from Windows: a line's end is made "\n" again where git had made it "\r\n".
require "digest"
require "find"
require "fileutils"
require "rubygems/package"
require_relative "machines"

module Checkout
  ROOT = File.expand_path("..", __dir__)
  WHEELS = "vagrant/stage/wheels".freeze
  PARTS = %w[.ci dev pyproject.toml README.md minicontainer miniecs images vagrant].freeze
  LEAVE = %r{/(__pycache__|\.vagrant|#{WHEELS})(/|\z)|/\.mypy_cache}.freeze
  TEXT = /\.(sh|py|rb|toml|yaml|md|txt)\z|\/(dev|run|Dockerfile|Vagrantfile|\.\w+)\z/.freeze

  COPYING = %w[up provision reload].freeze # the commands that copy it

  module_function

  # What Vagrant shall copy. Other commands want a file that is there, and need no archive.
  def code(arguments)
    copies?(arguments) ? archive("checkout.tar", PARTS.flat_map { |part| files_of(part, LEAVE) }) : __FILE__
  end

  def wheels(arguments)
    copies?(arguments) ? archive("wheels.tar", files_of(WHEELS, /\A\z/)) : __FILE__
  end

  def copies?(arguments)
    COPYING.include?(Machines.command(arguments))
  end

  # The path of an archive; it is written anew only when one of the files has changed.
  def archive(name, files)
    path = File.join(Machines::DATA, name)
    print = Digest::SHA256.hexdigest(files.sort.map { |file| [file, File.mtime(file).to_r, File.size(file)].join(" ") }.join("\n"))
    mark = "#{path}.print"
    return path if File.exist?(path) && File.exist?(mark) && File.read(mark) == print

    FileUtils.mkdir_p(File.dirname(path))
    write(files.sort, "#{path}.new")
    File.rename("#{path}.new", path)
    File.write(mark, print)
    path
  end

  def files_of(part, leave)
    place = File.join(ROOT, part)
    return [] unless File.exist?(place)

    Find.find(place).select { |file| File.file?(file) && !file.match?(leave) }
  end

  def write(files, path)
    File.open(path, "wb", 0o600) do |out| # the join token is in it
      Gem::Package::TarWriter.new(out) do |tar|
        files.each do |file|
          content = File.binread(file)
          content = content.gsub("\r\n", "\n") if file.match?(TEXT)
          tar.add_file_simple(file.delete_prefix("#{ROOT}/"), mode_of(file, content), content.bytesize) { |entry| entry.write(content) }
        end
      end
    end
  end

  # Windows has no executable bit: a file that says its interpreter has it.
  def mode_of(file, content)
    return 0o600 if File.basename(file) == ".join-token"

    content.start_with?("#!") ? 0o755 : 0o644
  end
end
